"""What answers look like, by noun: the types of `representations`, and the schemas of the OpenAPI document, in one.

They are dictionaries at run time. A field that is not required is one that only some answers have.
"""
