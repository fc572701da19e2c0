//! What must be true after every step.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use lifeboat::repo::envelope::Envelope;
use lifeboat::store::{Listed, LockState, Store as _};

use super::world::{SLACK, World};

impl World {
    pub async fn check(&mut self) {
        let listed = self.store.listed("");
        let mut locks: BTreeMap<String, Vec<(Listed, LockState)>> = BTreeMap::new();
        for one in listed {
            let lock = self.store.lock_state(&one.name, &one.version).await.unwrap();
            locks.entry(one.name.clone()).or_default().push((one, lock));
        }
        self.nothing_outlives_what_it_names(&locks).await;
        self.nothing_promised_is_gone(&locks);
        if let Some(swept) = self.swept {
            self.nothing_stays_for_nothing(swept, &locks);
        }
        if self.dice.percent(15) {
            self.a_point_reads_back().await;
        }
    }

    /// (a)
    async fn nothing_outlives_what_it_names(&mut self, locks: &BTreeMap<String, Vec<(Listed, LockState)>>) {
        for (name, versions) in locks.iter().filter(|(name, _)| name.ends_with(".envelope.json")) {
            let [(listed, own)] = versions.as_slice() else { panic!("{name} has several versions") };
            if !self.parsed.contains_key(&listed.version.0) {
                let bytes = self.store.get(name, Some(&listed.version), None).await.unwrap();
                self.parsed.insert(listed.version.0.clone(), Envelope::parse(&bytes, name).unwrap().objects);
            }
            let mut named: Vec<(String, Option<u64>)> = vec![(format!("{name}.sig"), None)];
            named.extend(self.parsed[&listed.version.0].iter().map(|object| (object.name.clone(), Some(object.bytes))));
            for (object, bytes) in named {
                let found = locks.get(&object).and_then(|versions| versions.first());
                let Some((found, lock)) = found else { panic!("{object} is gone, and {name} names it") };
                assert!(bytes.is_none_or(|bytes| bytes == found.bytes), "{object}");
                let (own, other) = (own.retained_until, lock.retained_until);
                assert!(own <= other, "{name} is locked until {own:?}, {object} until {other:?}");
            }
        }
    }

    /// (b)
    fn nothing_promised_is_gone(&mut self, locks: &BTreeMap<String, Vec<(Listed, LockState)>>) {
        let now = self.now();
        self.promised.retain(|_, until| *until > now);
        for (name, until) in &self.promised {
            assert!(locks.contains_key(name), "{name} was promised until {until}, and it is {now}");
        }
        for (scope, names) in &self.held {
            for name in names {
                assert!(locks.contains_key(name), "{name} is gone while {scope} is on hold");
            }
        }
    }

    /// (d) What lapsed longer ago than the slack can explain, and is not held, is a leak.
    fn nothing_stays_for_nothing(&self, swept: Timestamp, locks: &BTreeMap<String, Vec<(Listed, LockState)>>) {
        if !self.held.is_empty() {
            return;
        }
        let long_ago = swept - SLACK - SignedDuration::from_hours(1);
        let end = |lock: &LockState| lock.retained_until.unwrap_or(Timestamp::MIN);
        for (listed, lock) in locks.values().flatten() {
            // An extension that died between a signature and its envelope: they go together.
            let signature = locks.get(&format!("{}.sig", listed.name)).and_then(|versions| versions.first());
            let until = end(lock).max(signature.map_or(Timestamp::MIN, |(_, lock)| end(lock)));
            assert!(until > long_ago, "{} lapsed {until}, and is still there after the expire of {swept}", listed.name);
        }
    }

    /// (c)
    async fn a_point_reads_back(&mut self) {
        let promised = &self.promised;
        self.points.retain(|point| promised.contains_key(&point.name));
        if self.points.is_empty() {
            return;
        }
        let at = self.dice.within(0, self.points.len() as u64);
        let point = &self.points[usize::try_from(at).unwrap()];
        let reader = self.reader(true);
        reader.point_body(point).await.unwrap();
        for object in point.objects.iter().filter(|object| object.name.ends_with(".envelope.json")) {
            let envelope = reader.envelope(object).await.unwrap();
            let Some(seeds) = self.contents.get(&envelope.name) else {
                for span in &envelope.wal.as_ref().unwrap().spans {
                    reader.span(&envelope, &span.scope).await.unwrap().unwrap();
                }
                continue;
            };
            let body = reader.body(&envelope).await.unwrap();
            let mut read = Vec::new();
            reader.read_files(&body, 1 << 20, |_| true, |_, content| read.push(content)).await.unwrap();
            assert_eq!(read, [Self::content(seeds)], "{}", envelope.name);
            self.counts.read_back += 1;
        }
    }

    /// (d) When every need has ended, nothing is left.
    pub async fn outlive_everything(&mut self) {
        self.release_all().await;
        for _ in 0..3 {
            self.skip(3 * 365);
            self.expire(0).await;
            self.check().await;
        }
        assert_eq!(self.store.names(), Vec::<String>::new());
    }
}
