//! What a candidate is given as.

/// The program of a candidate, in one of the forms that
/// [`Sandbox::compile`](crate::Sandbox::compile) takes. All of it is untrusted;
/// nothing is parsed in the caller's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source<'a> {
    /// One Rust file, written against `terrarium_sdk`.
    Rust(&'a str),
    /// One C file, compiled by clang in the same jail.
    C(&'a str),
    /// A core module in WebAssembly's text format.
    Wat(&'a str),
    /// A core module that somebody else compiled.
    Wasm(&'a [u8]),
    /// A component that somebody else built.
    Component(&'a [u8]),
}

impl Source<'_> {
    /// Its bytes, as they are hashed and bounded.
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Rust(text) | Self::C(text) | Self::Wat(text) => text.as_bytes(),
            Self::Wasm(bytes) | Self::Component(bytes) => bytes,
        }
    }

    /// The word that keeps equal bytes of different kinds apart in the cache.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Rust(_) => "source",
            Self::C(_) => "c",
            Self::Wat(_) => "wat",
            Self::Wasm(_) => "wasm",
            Self::Component(_) => "component",
        }
    }
}

/// A [`Source`] that owns its bytes, for another thread.
pub(crate) struct OwnedSource {
    kind: fn(&OwnedSource) -> Source<'_>,
    text: String,
    bytes: Vec<u8>,
}

impl Source<'_> {
    pub(crate) fn to_owned(self) -> OwnedSource {
        let text = |kind: fn(&OwnedSource) -> Source<'_>, text: &str| OwnedSource {
            kind,
            text: text.to_owned(),
            bytes: Vec::new(),
        };
        let bytes = |kind: fn(&OwnedSource) -> Source<'_>, bytes: &[u8]| OwnedSource {
            kind,
            text: String::new(),
            bytes: bytes.to_vec(),
        };
        match self {
            Self::Rust(s) => text(|o| Source::Rust(&o.text), s),
            Self::C(s) => text(|o| Source::C(&o.text), s),
            Self::Wat(s) => text(|o| Source::Wat(&o.text), s),
            Self::Wasm(b) => bytes(|o| Source::Wasm(&o.bytes), b),
            Self::Component(b) => bytes(|o| Source::Component(&o.bytes), b),
        }
    }
}

impl OwnedSource {
    pub(crate) fn borrow(&self) -> Source<'_> {
        (self.kind)(self)
    }
}
