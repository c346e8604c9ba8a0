"""What queries, images and an idle month cost on AWS."""
