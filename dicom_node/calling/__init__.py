"""What our node asks of others: send, pull, find what is to be pulled."""
