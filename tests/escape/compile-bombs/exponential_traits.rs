//! attack: a type that is a tree of forty levels, projected through a trait
//! expect: deadline | compile-error

pub trait Deep {
    type Out;
    fn go() -> usize {
        0
    }
}
impl Deep for u8 {
    type Out = u8;
}
impl<A: Deep, B: Deep> Deep for (A, B) {
    type Out = (B::Out, A::Out);
}
type P0 = u8;
type P1 = (P0, P0);
type P2 = (P1, P1);
type P3 = (P2, P2);
type P4 = (P3, P3);
type P5 = (P4, P4);
type P6 = (P5, P5);
type P7 = (P6, P6);
type P8 = (P7, P7);
type P9 = (P8, P8);
type P10 = (P9, P9);
type P11 = (P10, P10);
type P12 = (P11, P11);
type P13 = (P12, P12);
type P14 = (P13, P13);
type P15 = (P14, P14);
type P16 = (P15, P15);
type P17 = (P16, P16);
type P18 = (P17, P17);
type P19 = (P18, P18);
type P20 = (P19, P19);
type P21 = (P20, P20);
type P22 = (P21, P21);
type P23 = (P22, P22);
type P24 = (P23, P23);
type P25 = (P24, P24);
type P26 = (P25, P25);
type P27 = (P26, P26);
type P28 = (P27, P27);
type P29 = (P28, P28);
type P30 = (P29, P29);
type P31 = (P30, P30);
type P32 = (P31, P31);
type P33 = (P32, P32);
type P34 = (P33, P33);
type P35 = (P34, P34);
type P36 = (P35, P35);
type P37 = (P36, P36);
type P38 = (P37, P37);
type P39 = (P38, P38);
type P40 = (P39, P39);
#[unsafe(no_mangle)]
pub extern "C" fn f() -> usize {
    <<P40 as Deep>::Out as Deep>::go()
}
