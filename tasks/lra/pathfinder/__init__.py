"""Pathfinder: are the two marked ends those of one dashed curve?"""
