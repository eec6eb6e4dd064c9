"""Files and stores on other machines, read by byte ranges."""
