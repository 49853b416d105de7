"""Detection data sets: reading, checking, downloading, drawing."""
