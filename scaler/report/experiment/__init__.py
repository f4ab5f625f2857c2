"""The report of an experiment: is it worth scaling, how far, and is the model still as good?"""
