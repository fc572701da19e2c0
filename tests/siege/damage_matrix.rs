//! x
use super::commands::{self, Stores};
use super::damage::{WAYS, victims};
use super::ground::Ground;
use lifeboat::config::When;
use lifeboat::repo::verify::Level;
use std::time::Instant;

#[tokio::test(flavor = "multi_thread")]
async fn probe() {
    let began = Instant::now();
    let ground = Ground::lived().await;
    eprintln!("ground {:?} {} objects", began.elapsed(), ground.store.names().len());
    let stores = Stores { primary: ground.store.clone(), copy: None };

    for victim in victims(&ground) { eprintln!("{}: {} / {} / {}", victim.kind, victim.name, victim.other, victim.older); }
    let began = Instant::now();
    eprintln!("{:#?}", commands::points(&ground, &stores).await);
    eprintln!("points {:?}", began.elapsed());
    let began = Instant::now();
    eprintln!("{:#?}", commands::restore(&ground, &stores, When::Latest).await);
    eprintln!("restore {:?}", began.elapsed());
    for level in [Level::Listing, Level::Bytes, Level::Contents] {
        let began = Instant::now();
        eprintln!("{:#?}", commands::verify(&ground, &stores, level).await);
        eprintln!("verify {:?}", began.elapsed());
    }
    let began = Instant::now();
    eprintln!("{:#?}", commands::copy(&ground, &stores).await);
    eprintln!("copy {:?}", began.elapsed());
    let began = Instant::now();
    eprintln!("{:#?}", commands::backup(&ground, &stores).await);
    eprintln!("backup {:?}", began.elapsed());
    eprintln!("{:#?}", commands::stream(&ground, &stores).await);
    let _ = WAYS;
}
