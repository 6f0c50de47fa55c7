//! Parquet files: a column `text` of strings, one document a row.

use super::Split;
use super::shards::{Document, is_text};
use super::zstd_pages::ZstdPages;
use parquet::basic::{Compression, Type};
use parquet::column::page::PageReader;
use parquet::column::reader::{ColumnReader, get_column_reader};
use parquet::data_type::ByteArray;
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::serialized_reader::SerializedPageReader;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

const COLUMN: &str = "text";

/// Rows read at a time.
const ROWS: usize = 1024;

/// The documents of a file, and what was left out of it: the whole file, a
/// group of rows that cannot be read, or single rows.
pub(super) fn documents(name: &str, path: &Path) -> (Vec<Document>, Vec<String>) {
    let (mut documents, mut skipped) = (Vec::new(), Vec::new());
    // The decoder checks what it reads; should it ever panic on a damaged
    // file, that file is one that cannot be read.
    let opened = guarded(|| open(path));
    let (file, reader, column) = match opened {
        Ok(opened) => opened,
        Err(reason) => return (documents, vec![format!("{name}: {reason}")]),
    };
    let mut first = 0u64;
    for group in reader.metadata().row_groups() {
        let told = group.num_rows();
        let rows = guarded(|| read_group(&file, group, column));
        match rows {
            Ok(rows) => {
                for (number, row) in (first..).zip(rows) {
                    let name = format!("{name}: row {}", number + 1);
                    let Some(text) = row else {
                        skipped.push(format!("{name}: has no text"));
                        continue;
                    };
                    match is_text(text.data()) {
                        Ok(()) => {
                            documents.push(Document { split: Split::Train, name, text: text.data().to_vec() })
                        }
                        Err(reason) => skipped.push(format!("{name}: {reason}")),
                    }
                }
            }
            Err(reason) => skipped.push(format!(
                "{name}: rows {}..={} cannot be read ({reason})",
                first + 1,
                first.saturating_add(told.max(0) as u64)
            )),
        }
        first = first.saturating_add(told.max(0) as u64);
    }
    (documents, skipped)
}

fn guarded<T>(read: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| Err("the Parquet decoder gave up".into()))
}

/// The file, what it says of itself, and the number of its text column.
fn open(path: &Path) -> Result<(Arc<File>, SerializedFileReader<File>, usize), String> {
    let unreadable = |e| format!("cannot be read ({e})");
    let file = File::open(path).map_err(unreadable)?;
    let again = Arc::new(file.try_clone().map_err(unreadable)?);
    let reader = SerializedFileReader::new(file).map_err(|e| format!("is not a whole Parquet file ({e})"))?;
    let schema = reader.metadata().file_metadata().schema_descr_ptr();
    let columns = schema.columns();
    let found = columns.iter().position(|c| {
        c.path().string() == COLUMN && c.physical_type() == Type::BYTE_ARRAY && c.max_rep_level() == 0
    });
    match found {
        Some(column) => Ok((again, reader, column)),
        None => {
            let known: Vec<String> = columns.iter().map(|c| c.path().string()).collect();
            Err(format!("has no column `{COLUMN}` of strings, only: {}", known.join(", ")))
        }
    }
}

/// The rows of a group; `None` where there is no value.
fn read_group(
    file: &Arc<File>,
    group: &RowGroupMetaData,
    column: usize,
) -> Result<Vec<Option<ByteArray>>, String> {
    let failed = |e: parquet::errors::ParquetError| e.to_string();
    let rows = group.num_rows();
    let total = usize::try_from(rows).map_err(|_| format!("{rows} rows"))?;
    let chunk = group.columns().get(column).ok_or("the column is not there")?;
    let zstd = matches!(chunk.compression(), Compression::ZSTD(_));
    // Pages that we decompress ourselves are read as they are.
    let plain = chunk.clone().into_builder().set_compression(Compression::UNCOMPRESSED).build();
    let plain = plain.map_err(failed)?;
    let chunk = if zstd { &plain } else { chunk };
    let pages = SerializedPageReader::new(Arc::clone(file), chunk, total, None).map_err(failed)?;
    let pages: Box<dyn PageReader> = if zstd { Box::new(ZstdPages(pages)) } else { Box::new(pages) };
    let ColumnReader::ByteArrayColumnReader(mut reader) = get_column_reader(chunk.column_descr_ptr(), pages)
    else {
        return Err("another type than the schema says".into());
    };
    let optional = chunk.column_descr().max_def_level();
    let mut found = Vec::new();
    loop {
        let (mut levels, mut values) = (Vec::new(), Vec::new());
        let (records, _, _) =
            reader.read_records(ROWS, Some(&mut levels), None, &mut values).map_err(failed)?;
        if records == 0 {
            break;
        }
        let mut values = values.into_iter();
        for row in 0..records {
            let present = optional == 0 || levels.get(row) == Some(&optional);
            found.push(if present { values.next() } else { None });
        }
    }
    if i64::try_from(found.len()) != Ok(rows) {
        return Err(format!("{} of {rows} rows are there", found.len()));
    }
    Ok(found)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use parquet::data_type::ByteArrayType;
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;
    use std::sync::Arc;

    /// A file with these groups of rows, in its column `text` or another.
    pub fn write(path: &Path, column: &str, groups: &[&[Option<&[u8]>]], compression: Compression) {
        let schema = format!("message rows {{ required int64 id; optional binary {column} (UTF8); }}");
        let schema = Arc::new(parse_message_type(&schema).expect("a schema"));
        let properties = WriterProperties::builder().set_compression(compression).build();
        let file = File::create(path).expect("created");
        let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).expect("a writer");
        for rows in groups {
            let mut group = writer.next_row_group().expect("a group");
            let mut ids = group.next_column().expect("a column").expect("id");
            let numbers: Vec<i64> = (0..rows.len() as i64).collect();
            ids.typed::<parquet::data_type::Int64Type>().write_batch(&numbers, None, None).expect("written");
            ids.close().expect("closed");
            let mut texts = group.next_column().expect("a column").expect("text");
            let values: Vec<ByteArray> = rows.iter().flatten().map(|row| row.to_vec().into()).collect();
            let levels: Vec<i16> = rows.iter().map(|row| i16::from(row.is_some())).collect();
            texts.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None).expect("written");
            texts.close().expect("closed");
            group.close().expect("closed");
        }
        writer.close().expect("closed");
    }

    #[test]
    fn rows_are_documents_and_bad_ones_are_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.parquet");
        let groups: [&[Option<&[u8]>]; 2] =
            [&[Some(b"one"), None, Some(b"two")], &[Some(b"\xff"), Some("drei ü".as_bytes()), Some(b" ")]];
        for compression in [Compression::UNCOMPRESSED, Compression::SNAPPY] {
            write(&path, "text", &groups, compression);
            let (found, skipped) = documents("a.parquet", &path);
            let found: Vec<_> = found.iter().map(|d| (d.name.as_str(), d.text.as_slice())).collect();
            assert_eq!(
                found,
                [
                    ("a.parquet: row 1", b"one".as_slice()),
                    ("a.parquet: row 3", b"two"),
                    ("a.parquet: row 5", "drei ü".as_bytes())
                ]
            );
            assert_eq!(
                skipped,
                [
                    "a.parquet: row 2: has no text",
                    "a.parquet: row 4: is not UTF-8 text",
                    "a.parquet: row 6: is empty"
                ]
            );
        }
    }

    #[test]
    fn a_file_that_is_cut_or_has_no_text_is_named_and_left_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.parquet");
        write(&path, "text", &[&[Some(b"one")]], Compression::SNAPPY);
        let whole = std::fs::read(&path).expect("read");
        for cut in [0, 3, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&path, &whole[..cut]).expect("cut");
            let (found, skipped) = documents("a.parquet", &path);
            assert!(found.is_empty(), "{cut} bytes of {}", whole.len());
            assert!(skipped[0].starts_with("a.parquet: is not a whole Parquet file"), "{skipped:?}");
        }
        write(&path, "body", &[&[Some(b"one")]], Compression::SNAPPY);
        let (found, skipped) = documents("a.parquet", &path);
        assert!(found.is_empty());
        assert_eq!(skipped, ["a.parquet: has no column `text` of strings, only: id, body"]);
    }

    /// Made with pyarrow 26: `text` of 300 strings `row N of zstd ü`, N from 0,
    /// but null where N is a multiple of 7; pages of version 1 and 2.
    #[test]
    fn zstd_pages_of_another_writer_are_read() {
        for (version, file) in
            [(1, include_bytes!("zstd_v1.parquet").as_slice()), (2, include_bytes!("zstd_v2.parquet"))]
        {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("z.parquet");
            std::fs::write(&path, file).expect("written");
            let (found, skipped) = documents("z", &path);
            assert_eq!((found.len(), skipped.len()), (257, 43), "version {version}: {skipped:?}");
            let wanted = (0..300).filter(|n| n % 7 != 0).map(|n| format!("row {n} of zstd ü"));
            assert!(found.iter().map(|d| d.text.clone()).eq(wanted.map(String::into_bytes)));
            // Damage within the pages is seen, whatever it is.
            for at in 20..200 {
                let mut damaged = file.to_vec();
                damaged[at] ^= 0x40;
                std::fs::write(&path, &damaged).expect("written");
                let (found, skipped) = documents("z", &path);
                assert_eq!(found.len() + skipped.iter().filter(|s| s.contains(": row ")).count(), {
                    if skipped.iter().any(|s| s.contains("cannot be read") || s.contains("not a whole")) {
                        0
                    } else {
                        300
                    }
                });
            }
        }
    }

    #[test]
    fn a_damaged_group_is_named_and_the_others_are_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.parquet");
        let long = "the same words again and again. ".repeat(64);
        let groups: [&[Option<&[u8]>]; 2] = [&[Some(long.as_bytes())], &[Some(b"two")]];
        write(&path, "text", &groups, Compression::SNAPPY);
        let whole = std::fs::read(&path).expect("read");
        // The pages of the long text: its column chunk is the second of group 1.
        let reader = SerializedFileReader::new(File::open(&path).expect("open")).expect("whole");
        let chunk = reader.metadata().row_group(0).column(1).byte_range();
        let mut damaged = whole.clone();
        for byte in &mut damaged[chunk.0 as usize + 30..(chunk.0 + chunk.1) as usize] {
            *byte ^= 0x5a;
        }
        std::fs::write(&path, &damaged).expect("written");
        let (found, skipped) = documents("a.parquet", &path);
        let found: Vec<_> = found.iter().map(|d| d.name.as_str()).collect();
        assert_eq!(found, ["a.parquet: row 2"]);
        assert!(skipped[0].starts_with("a.parquet: rows 1..=1 cannot be read"), "{skipped:?}");
    }
}
