"""What a picture is to a network, as pure functions of its pixels (preprocessing version 2)."""
