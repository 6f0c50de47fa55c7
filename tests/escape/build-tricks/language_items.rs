//! attack: replaces the foundations of the language
//! expect: compile-error

#![no_std]
#![no_core]
#![feature(no_core, lang_items)]
#[lang = "sized"]
trait Sized {}
