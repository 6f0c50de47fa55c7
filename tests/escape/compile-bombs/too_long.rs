//! attack: a source of 300 KB
//! expect: rejected

«30000 × // aaaaaa
»
