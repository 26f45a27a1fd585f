"""Orders from outside: kept, matched with a series by the rules of the site, asked for, and answered."""
