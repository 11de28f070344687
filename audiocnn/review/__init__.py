"""Labels -> what people look through, search and correct."""
