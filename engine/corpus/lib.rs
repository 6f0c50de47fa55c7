//! Never compiled: the crate only names what the corpus is made of.
