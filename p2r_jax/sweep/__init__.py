"""Many runs from one file: what is missing is run, by workers that may be killed."""
