"""studies: many small trainings compared in one table. A study is a set of cells; each cell trains, predicts and
leaves one JSON record under a name that says all that decides it, so a study run again does only what is left.
"""
