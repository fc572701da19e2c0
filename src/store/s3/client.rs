//! The SDK's client, as an [`S3Options`] wants it: rustls with ring, the CA file, credentials, limits, retries.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::{ConfigLoader, Region, SdkConfig};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, ProvideCredentials as _, RequestChecksumCalculation, ResponseChecksumValidation,
    SharedCredentialsProvider, SharedHttpClient, StalledStreamProtectionConfig,
};
use aws_smithy_http_client::{Builder, tls};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::gate::Gate;
use super::observed::{Observed, Observer};
use super::{Access, S3Options};
use crate::store::StoreError;

const CONNECT: Duration = Duration::from_secs(10);

/// The waits between attempts are random, up to these, doubling (AWS SDKs Reference, "retry behavior").
const FIRST_BACKOFF: Duration = Duration::from_millis(200);
const LONGEST_BACKOFF: Duration = Duration::from_secs(20);

/// What Ceph and its like are signed for when nobody names a region.
const ANY_REGION: &str = "us-east-1";

pub(super) async fn connect(
    options: &S3Options,
    gate: Arc<Gate>,
    observed: Arc<Observed>,
) -> Result<Client, StoreError> {
    let http = http_client(options)?;
    let chain = chain(options).await;
    let region = match (&options.region, chain.region(), &options.endpoint) {
        (Some(region), _, _) => Region::new(region.clone()),
        (None, Some(region), _) => region.clone(),
        (None, None, Some(_)) => Region::from_static(ANY_REGION),
        (None, None, None) => return Err(other(options, "no region is known: set 'region' of the store")),
    };
    let credentials = credentials(options, &chain, &region).await?;
    let retries = RetryConfig::standard()
        .with_max_attempts(options.attempts.max(1))
        .with_initial_backoff(FIRST_BACKOFF)
        .with_max_backoff(LONGEST_BACKOFF);
    let mut config = aws_sdk_s3::config::Builder::from(&chain)
        .region(region)
        .credentials_provider(credentials)
        .http_client(http)
        .force_path_style(options.path_style)
        .retry_config(retries)
        .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT).build())
        .stalled_stream_protection(StalledStreamProtectionConfig::enabled().grace_period(options.patience).build())
        // We give SHA-256 ourselves. The SDK's own default turns bodies into a stream of signed chunks, which not every
        // server reads.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .interceptor(Observer { gate, observed });
    if let Some(endpoint) = &options.endpoint {
        config = config.endpoint_url(endpoint);
    }
    Ok(Client::from_conf(config.build()))
}

/// Region, credentials and the rest as the AWS chain finds them. What is asked for them (STS, SSO) is AWS's, and never
/// signed by the CA file.
async fn chain(options: &S3Options) -> SdkConfig {
    let loader: ConfigLoader = aws_config::defaults(BehaviorVersion::latest()).http_client(system_https());
    let loader = match &options.access {
        Access::Profile(profile) => loader.profile_name(profile),
        Access::Chain => loader,
        Access::Keys(keys) => loader.credentials_provider(keys.clone()),
    };
    let loader = match &options.region {
        Some(region) => loader.region(Region::new(region.clone())),
        None if options.endpoint.is_some() => loader.region(Region::from_static(ANY_REGION)),
        None => loader,
    };
    loader.load().await
}

/// Asks once for the credentials, so that their absence is told as such and not with some object's name.
async fn credentials(
    options: &S3Options,
    chain: &SdkConfig,
    region: &Region,
) -> Result<SharedCredentialsProvider, StoreError> {
    let denied = |what: String| StoreError::Denied { name: options.bucket.clone(), what };
    let provider = match &options.access {
        // Before what the environment says: whoever named a profile for a role means it.
        Access::Profile(profile) => {
            let config = ProviderConfig::default().with_http_client(system_https()).with_region(Some(region.clone()));
            let provider = ProfileFileCredentialsProvider::builder().configure(&config).profile_name(profile).build();
            SharedCredentialsProvider::new(provider)
        }
        Access::Keys(keys) => SharedCredentialsProvider::new(keys.clone()),
        Access::Chain => {
            chain.credentials_provider().ok_or_else(|| denied("the AWS chain gives no credentials".to_owned()))?
        }
    };
    match provider.provide_credentials().await {
        Ok(_) => Ok(provider),
        Err(error) => {
            let from = match &options.access {
                Access::Profile(profile) => format!("the AWS profile '{profile}'"),
                Access::Chain | Access::Keys(_) => "the AWS chain".to_owned(),
            };
            Err(denied(format!("{from} gives no credentials: {}", crate::failure::chain(&error))))
        }
    }
}

fn http_client(options: &S3Options) -> Result<SharedHttpClient, StoreError> {
    match (&options.ca_file, &options.endpoint) {
        (Some(file), _) => trusting(options, file),
        // Nothing to verify, and perhaps no certificates on the machine to do it with.
        (None, Some(endpoint)) if endpoint.starts_with("http://") => Ok(Builder::new().build_http()),
        (None, _) => Ok(system_https()),
    }
}

fn system_https() -> SharedHttpClient {
    Builder::new().tls_provider(rustls_with_ring()).build_https()
}

fn rustls_with_ring() -> tls::Provider {
    tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring)
}

/// A client that trusts what the file's certificates signed, and nothing else.
fn trusting(options: &S3Options, file: &Path) -> Result<SharedHttpClient, StoreError> {
    let wrong = |what: &str| other(options, &format!("the CA file {}: {what}", file.display()));
    let pem = std::fs::read(file).map_err(|error| wrong(&error.to_string()))?;
    // The SDK panics on certificates that it cannot read, so they are read here before.
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| wrong(&format!("is not PEM: {error}")))?;
    let count = certificates.len();
    let (good, _) = rustls::RootCertStore::empty().add_parsable_certificates(certificates);
    if good == 0 || good < count {
        return Err(wrong("holds no certificate, or one that cannot be read"));
    }
    let store = tls::TrustStore::empty().with_pem_certificate(pem);
    let context = tls::TlsContext::builder().with_trust_store(store).build();
    let context = context.map_err(|error| wrong(&error.to_string()))?;
    Ok(Builder::new().tls_provider(rustls_with_ring()).tls_context(context).build_https())
}

fn other(options: &S3Options, what: &str) -> StoreError {
    StoreError::Other { name: options.bucket.clone(), what: what.to_owned(), source: None }
}
