//! Change events: the header decoded, the rest raw.
