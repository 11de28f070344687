"""Label the recordings of a bucket; merge the labels into events and export them."""
