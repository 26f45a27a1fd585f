"""The transparency log of a site: appended to, checked from within, watched from outside."""
