"""Records of runs, their protocols, and tables made from them."""
