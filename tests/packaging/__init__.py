"""What is installed is what was tested: the wheel and the editable install, in environments of their own."""
