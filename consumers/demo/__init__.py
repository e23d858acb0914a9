"""The demo of the whole path on temporary servers, for `noetl-events demo`."""
