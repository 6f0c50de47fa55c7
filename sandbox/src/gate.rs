//! placeholder
/// features
pub fn accepted_features() -> wasmparser::WasmFeatures {
    use wasmparser::WasmFeatures as W;
    W::MUTABLE_GLOBAL | W::SATURATING_FLOAT_TO_INT | W::SIGN_EXTENSION | W::REFERENCE_TYPES
        | W::MULTI_VALUE | W::BULK_MEMORY | W::SIMD | W::FLOATS
}
