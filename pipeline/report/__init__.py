"""What a published night looks like to people: its figures beside the last night's (`figures`, `drift`, `movers`), as a
page that needs no network (`page`), and the nights of a table as another (`nights_page`).
"""
