"""How gream is used from other programs: an HTTP service over one loaded recommender."""
