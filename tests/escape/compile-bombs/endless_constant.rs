//! attack: a constant that is computed for ever
//! expect: deadline

pub static S: u32 = {
    let mut i = 0u32;
    loop {
        i = i.wrapping_add(1) % 1_000_003;
    }
};
