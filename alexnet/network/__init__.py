"""What an AlexNet is: the table of variants, and the modules made from it."""
