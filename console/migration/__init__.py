"""From one model to another while searches go on."""
