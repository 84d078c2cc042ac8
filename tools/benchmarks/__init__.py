"""laila measured beside raw sockets and the libraries that do a similar job."""
