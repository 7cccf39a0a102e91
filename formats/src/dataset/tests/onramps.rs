//! MDS and `.beton`.

use proptest::prelude::*;

use super::*;
use crate::decode::decoder;
use crate::record::FrameRequest;
use tubelet_core::Clip;

fn u32s(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// A shard of `columns` (fixed sizes where they have one).
pub(super) fn mds(samples: &[Vec<Vec<u8>>], fixed: &[bool]) -> Vec<u8> {
    let config = b"{\"facts\": \"are in the index\"}";
    let sample = |values: &Vec<Vec<u8>>| {
        let sizes = values.iter().zip(fixed).filter(|(_, fixed)| !**fixed);
        let sizes: Vec<u8> = sizes.flat_map(|(v, _)| (v.len() as u32).to_le_bytes()).collect();
        [sizes, values.concat()].concat()
    };
    let bodies: Vec<Vec<u8>> = samples.iter().map(sample).collect();
    let mut places = vec![(4 + 4 * (samples.len() + 1) + config.len()) as u32];
    for body in &bodies {
        places.push(places[places.len() - 1] + body.len() as u32);
    }
    [u32s(&[samples.len() as u32]), u32s(&places), config.to_vec(), bodies.concat()].concat()
}

pub(super) fn index(shards: &[(&str, usize)], columns: &[(&str, &str, Option<u32>)]) -> String {
    let shard = |(name, samples): &(&str, usize)| {
        serde_json::json!({
            "column_names": columns.iter().map(|c| c.0).collect::<Vec<_>>(),
            "column_encodings": columns.iter().map(|c| c.1).collect::<Vec<_>>(),
            "column_sizes": columns.iter().map(|c| c.2).collect::<Vec<_>>(),
            "compression": null, "format": "mds", "hashes": [], "samples": samples,
            "raw_data": {"basename": name, "bytes": 1, "hashes": {}},
            "size_limit": 67108864, "version": 2, "zip_data": null,
        })
    };
    let shards: Vec<_> = shards.iter().map(shard).collect();
    serde_json::json!({"shards": shards, "version": 2}).to_string()
}

#[test]
fn mds_shards_are_read_in_place() {
    let root = tempfile::tempdir().expect("folder");
    let known: Vec<Vec<u8>> = (0..4).map(jpeg).collect();
    let columns = [("image", "jpeg:90", None), ("label", "int", Some(8)), ("text", "str", None)];
    let sample = |n: usize| {
        vec![known[n].clone(), (n as i64 - 1).to_le_bytes().to_vec(), b"caption".to_vec()]
    };
    let fixed = [false, true, false];
    let at = |name: &str| root.path().join("train").join(name);
    write(&at("shard.00000.mds"), mds(&[sample(0), sample(1)], &fixed));
    write(&at("shard.00001.mds"), mds(&[sample(2), sample(3)], &fixed));
    let shards = [("shard.00000.mds", 2), ("shard.00001.mds", 2), ("shard.00002.mds", 2)];
    write(&at("index.json"), index(&shards, &columns));
    assert_eq!(detected(root.path(), "train"), Layout::Mds);
    let reader = opened(root.path(), &of_split("train"));
    let wanted: Vec<String> =
        (0..4).map(|n| format!("train/shard.0000{}.mds/{}.jpg - {n}", n / 2, n % 2)).collect();
    assert_eq!(table(reader.as_ref(), &known), wanted);
    let labels: Vec<Option<u32>> = (0..4).map(|n| reader.record(n).label).collect();
    assert_eq!(labels, [None, Some(0), Some(1), Some(2)]);
    assert_eq!(reader.missing(), ["train/shard.00002.mds/0", "train/shard.00002.mds/1"]);

    // A shard that is there compressed alone.
    let raw = std::fs::read(at("shard.00001.mds")).expect("read");
    std::fs::remove_file(at("shard.00001.mds")).expect("removed");
    write(&at("shard.00001.mds.zstd"), zstd::encode_all(raw.as_slice(), 1).expect("packed"));
    let zip = "\"zip_data\":{\"basename\":\"shard.00001.mds.zstd\",\"bytes\":1,\"hashes\":{}}";
    let text = index(&[("shard.00001.mds", 2)], &columns);
    write(&at("index.json"), text.replace("\"zip_data\":null", zip));
    let packed = refused(root.path(), &of_split("train"));
    assert!(packed.contains("shard.00001.mds.zstd") && packed.contains("--unpack"), "{packed}");
    let unpack = OpenOptions { unpack: true, ..of_split("train") };
    assert_eq!(samples(opened(root.path(), &unpack).as_ref())[1].2, known[3]);

    write(&at("index.json"), index(&[("shard.00000.mds", 3)], &columns));
    let wrong = refused(root.path(), &of_split("train"));
    assert!(wrong.contains("shard.00000.mds: 2 samples, index.json says 3"), "{wrong}");
    write(&at("index.json"), index(&[("shard.00000.mds", 2)], &[("text", "str", None)]));
    let wrong = refused(root.path(), &of_split("train"));
    assert!(wrong.contains("index.json, shard 0: no column of pictures"), "{wrong}");
    let field = OpenOptions { field: Some("text".to_owned()), ..of_split("train") };
    write(&at("index.json"), index(&[("shard.00000.mds", 2)], &columns));
    let wrong = refused(root.path(), &field);
    assert!(wrong.contains("shard.00000.mds, row 0: column `text`: no picture"), "{wrong}");
    let whole = std::fs::read(at("shard.00000.mds")).expect("read");
    write(&at("shard.00000.mds"), &whole[..whole.len() - 10]);
    let cut = refused(root.path(), &of_split("train"));
    assert!(cut.contains("shard.00000.mds, row 1: bytes "), "{cut}");
}

#[test]
fn raw_pixels_are_shown_as_they_are() {
    let root = tempfile::tempdir().expect("folder");
    let size = Size::new(5, 3);
    let pixels: Vec<u8> = (0..45).map(|n| n * 5).collect();
    let pil = [u32s(&[5, 3, 3]), b"RGB".to_vec(), pixels.clone()].concat();
    write(&root.path().join("a.mds"), mds(&[vec![b"dog".to_vec(), pil]], &[false, false]));
    let columns = [("class", "str", None), ("x", "pil", None)];
    write(&root.path().join("index.json"), index(&[("a.mds", 1)], &columns));
    let raw = beton(&[(Some(&pixels), size, 3)], false);
    write(&root.path().join("b.beton"), raw);
    for (path, class) in [("index.json", Some("dog")), ("b.beton", None)] {
        // Twice: found, and from the stored catalogue.
        for _ in 0..2 {
            let reader = opened(&root.path().join(path), &of_split("train"));
            let (name, found, bytes) = samples(reader.as_ref()).remove(0);
            assert!(name.ends_with("/0.bmp"), "{name}");
            assert_eq!(found.as_deref(), class);
            let mut decoder = decoder();
            let info = decoder.probe(&bytes).expect("a picture");
            assert_eq!(reader.record(0).info.as_deref(), Some(&info));
            let mut clip = Clip::new();
            let want = FrameRequest { frames: vec![0], region: None, planes: false };
            decoder.decode(&bytes, &info, &want, &mut clip).expect("decodes");
            assert_eq!((clip.size(), clip.nth(0)), (size, pixels.as_slice()));
        }
    }
}

/// A `.beton` file of pictures (raw pixels, or a JPEG where there are none) and labels.
fn beton(samples: &[(Option<&[u8]>, Size, u64)], label_first: bool) -> Vec<u8> {
    let field = |kind: u8, name: &str| {
        let mut field = vec![0; 1041];
        field[0] = kind;
        field[1..1 + name.len()].copy_from_slice(name.as_bytes());
        field
    };
    let fields = match label_first {
        true => [field(1, "label"), field(2, "image")].concat(),
        false => [field(2, "image"), field(1, "label")].concat(),
    };
    let data_start = (24 + fields.len() + 24 * samples.len()) as u64;
    let (mut rows, mut data, mut allocations) = (Vec::new(), Vec::new(), Vec::new());
    for (n, (pixels, size, label)) in samples.iter().enumerate() {
        let payload = pixels.map_or_else(|| jpeg(n as u32), <[u8]>::to_vec);
        let place = data_start + data.len() as u64;
        let mut image = vec![u8::from(pixels.is_some())];
        image.extend_from_slice(&(size.width as u16).to_le_bytes());
        image.extend_from_slice(&(size.height as u16).to_le_bytes());
        image.extend_from_slice(&place.to_le_bytes());
        image.resize(16, 0);
        let label = label.to_le_bytes().to_vec();
        rows.extend(if label_first { [label, image].concat() } else { [image, label].concat() });
        for value in [n as u64, place, payload.len() as u64] {
            allocations.extend_from_slice(&value.to_le_bytes());
        }
        data.extend(payload);
    }
    let mut head = [2u16.to_le_bytes(), 2u16.to_le_bytes()].concat();
    head.extend_from_slice(&(1u32 << 21).to_le_bytes());
    head.extend_from_slice(&(samples.len() as u64).to_le_bytes());
    head.extend_from_slice(&(data_start + data.len() as u64).to_le_bytes());
    [head, fields, rows, data, allocations].concat()
}

#[test]
fn beton_files_are_read_in_place() {
    let root = tempfile::tempdir().expect("folder");
    let size = Size::new(4, 2);
    let pixels = [9u8; 24];
    for label_first in [false, true] {
        let samples = [(None, size, 7), (Some(&pixels[..]), size, 1), (None, size, u64::MAX)];
        let path = root.path().join("data_val.beton");
        write(&path, beton(&samples, label_first));
        assert_eq!(detected(&path, "val"), Layout::Beton);
        let options = OpenOptions { layout: Some(Layout::Beton), ..of_split("val") };
        let reader = opened(root.path(), &options);
        let labels: Vec<Option<u32>> = (0..3).map(|n| reader.record(n).label).collect();
        assert_eq!(labels, [Some(7), Some(1), None]);
        let found = super::samples(reader.as_ref());
        assert_eq!(found[0].2, jpeg(0));
        assert_eq!(found[2].2, jpeg(2));
        assert!(found[1].2.starts_with(b"BM"));
    }
}

#[test]
fn beton_errors_name_file_and_row() {
    let root = tempfile::tempdir().expect("folder");
    let path = root.path().join("x.beton");
    let whole = beton(&[(None, Size::new(4, 2), 0), (Some(&[1; 24]), Size::new(4, 2), 0)], false);
    let refuse = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = whole.clone();
        change(&mut bytes);
        write(&path, &bytes);
        refused(&path, &of_split("train"))
    };
    let version = refuse(&|b| b[0] = 1);
    assert!(version.contains("x.beton: version 1"), "{version}");
    let kind = refuse(&|b| b[24] = 255);
    assert!(kind.contains("field `image` is of type 255"), "{kind}");
    let row = refuse(&|b| b[24 + 2 * 1041 + 24] = 9);
    assert!(row.contains("x.beton, row 1: mode 9"), "{row}");
    let place = refuse(&|b| b[24 + 2 * 1041 + 5] ^= 0xff);
    assert!(place.contains("x.beton, row 0: no size is told"), "{place}");
    let many = refuse(&|b| b[12] = 0xff);
    assert!(many.contains("x.beton: cut off"), "{many}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Cut or changed anywhere, both formats give samples or an error that names the file.
    #[test]
    fn damage_never_panics(at in any::<prop::sample::Index>(), cut in any::<bool>(), mask in 1..=255u8) {
        let root = tempfile::tempdir().expect("folder");
        let columns = [("image", "jpeg", None), ("label", "int", Some(8))];
        write(&root.path().join("index.json"), index(&[("a.mds", 2)], &columns));
        let sample = |n| vec![jpeg(n), 3i64.to_le_bytes().to_vec()];
        let raw = (Some(&[1u8; 24][..]), Size::new(4, 2), 0);
        let files = [
            ("a.mds", mds(&[sample(0), sample(1)], &[false, true])),
            ("b.beton", beton(&[(None, Size::new(4, 2), 0), raw], false)),
        ];
        for (name, mut bytes) in files {
            let place = at.index(bytes.len());
            bytes[place] ^= mask;
            if cut {
                bytes.truncate(place);
            }
            write(&root.path().join(name), &bytes);
            let path = root.path().join(if name == "a.mds" { "index.json" } else { name });
            match open(&path, &of_split("train")) {
                Ok(reader) => drop(samples(reader.as_ref())),
                Err(error) => prop_assert!(error.to_string().contains(name), "{}", error),
            }
        }
    }
}
