"""Pure arithmetic on numbers: no input or output, no clock, nothing but the standard library."""
