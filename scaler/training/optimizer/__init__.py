"""The torch optimizer: how it is built, and what is written into it before each step."""
