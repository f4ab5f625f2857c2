"""Pure arithmetic on numbers: it uses only the standard library, and has no input, output or clock."""
