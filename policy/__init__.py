"""Guard rails: what every stack must keep to, whoever changed the program. See README.md."""
