"""bertmill beside other programs: the same work, the same machine, in turns."""
