//! Parquet pages that are compressed with Zstandard.
//!
//! The `parquet` crate decompresses Zstandard with the C library; `ruzstd` does
//! the same in Rust, without a C compiler and in a fraction of the build. The
//! pages are read as if they were not compressed, and decompressed here.

use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result};
use std::io::Read;

/// Largest page, decompressed. The format's own sizes are signed 32-bit
/// numbers; writers make pages of about 1 MiB.
const MAX_PAGE_BYTES: u64 = 256 << 20;

/// The pages of another reader, decompressed.
pub(super) struct ZstdPages<R>(pub R);

fn decompress(from: &[u8], out: &mut Vec<u8>) -> Result<()> {
    // A page without values is empty.
    if from.is_empty() {
        return Ok(());
    }
    let failed = |e: String| ParquetError::General(format!("Zstandard: {e}"));
    let decoder = ruzstd::decoding::StreamingDecoder::new(from).map_err(|e| failed(e.to_string()))?;
    let limit = MAX_PAGE_BYTES + out.len() as u64;
    decoder.take(MAX_PAGE_BYTES + 1).read_to_end(out).map_err(|e| failed(e.to_string()))?;
    if out.len() as u64 > limit {
        return Err(failed(format!("a page of more than {MAX_PAGE_BYTES} bytes")));
    }
    Ok(())
}

fn open(mut page: Page) -> Result<Page> {
    match &mut page {
        Page::DataPage { buf, .. } | Page::DictionaryPage { buf, .. } => {
            let mut out = Vec::new();
            decompress(buf, &mut out)?;
            *buf = out.into();
        }
        // The levels before the values are never compressed.
        Page::DataPageV2 { buf, def_levels_byte_len, rep_levels_byte_len, is_compressed: true, .. } => {
            let levels = (*def_levels_byte_len as usize).saturating_add(*rep_levels_byte_len as usize);
            let (levels, values) = buf
                .split_at_checked(levels)
                .ok_or_else(|| ParquetError::General("a page is shorter than its levels".into()))?;
            let mut out = levels.to_vec();
            decompress(values, &mut out)?;
            *buf = out.into();
        }
        Page::DataPageV2 { .. } => {}
    }
    Ok(page)
}

impl<R: PageReader> Iterator for ZstdPages<R> {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl<R: PageReader> PageReader for ZstdPages<R> {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        self.0.get_next_page()?.map(open).transpose()
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.0.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.0.skip_next_page()
    }

    fn at_record_boundary(&mut self) -> Result<bool> {
        self.0.at_record_boundary()
    }
}
