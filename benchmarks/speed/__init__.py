"""How fast the parts are, in alternation with their peers and the limits of the machine."""
