"""The S3 bucket of model weights: the copy that everything else can be filled from again."""

from __future__ import annotations

from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

from infra.identity import policy_json

# Long enough to notice a bad upload and go back; weights of a frontier model are half a terabyte a version.
_NONCURRENT_DAYS = 30
_ABORT_UPLOAD_DAYS = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsArgs:
    """The key that encrypts the weights, and whether they outlive the stack."""

    key_arn: pulumi.Input[str]
    keep: bool
    """Protect the bucket and all its settings, and keep them on destroy; else destroy empties it."""


class Weights(pulumi.ComponentResource):
    """A private, versioned, encrypted bucket that answers over TLS only."""

    bucket_name: pulumi.Output[str]
    arn: pulumi.Output[str]
    ready: tuple[pulumi.Resource, ...]
    """Policy and encryption: nothing may be read or written before them."""

    def __init__(self, name: str, args: WeightsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("inference:index:Weights", name, None, opts)
        # The settings too: a bucket that is kept must not lose its encryption and its block of public access.
        kept = pulumi.ResourceOptions(parent=self, protect=args.keep, retain_on_delete=args.keep)
        bucket = aws.s3.Bucket(f"{name}-bucket", force_destroy=not args.keep, opts=kept)
        versioning = aws.s3.BucketVersioning(
            f"{name}-versioning",
            bucket=bucket.bucket,
            versioning_configuration=aws.s3.BucketVersioningVersioningConfigurationArgs(status="Enabled"),
            opts=kept,
        )
        encryption = aws.s3.BucketServerSideEncryptionConfiguration(
            f"{name}-encryption",
            bucket=bucket.bucket,
            rules=[
                aws.s3.BucketServerSideEncryptionConfigurationRuleArgs(
                    apply_server_side_encryption_by_default=(
                        aws.s3.BucketServerSideEncryptionConfigurationRuleApplyServerSideEncryptionByDefaultArgs(
                            sse_algorithm="aws:kms", kms_master_key_id=args.key_arn
                        )
                    ),
                    # One call to KMS for many objects; nodes read thousands of them at once.
                    bucket_key_enabled=True,
                )
            ],
            opts=kept,
        )
        ownership = aws.s3.BucketOwnershipControls(
            f"{name}-ownership",
            bucket=bucket.bucket,
            rule=aws.s3.BucketOwnershipControlsRuleArgs(object_ownership="BucketOwnerEnforced"),
            opts=kept,
        )
        private = aws.s3.BucketPublicAccessBlock(
            f"{name}-private",
            bucket=bucket.bucket,
            block_public_acls=True,
            block_public_policy=True,
            ignore_public_acls=True,
            restrict_public_buckets=True,
            opts=kept,
        )
        # S3 answers 409 (OperationAborted) where a policy meets the block that is being put on the same bucket.
        policy = aws.s3.BucketPolicy(
            f"{name}-policy",
            bucket=bucket.bucket,
            policy=_tls_only(bucket.arn),
            opts=pulumi.ResourceOptions(
                parent=self, protect=args.keep, retain_on_delete=args.keep, depends_on=[private]
            ),
        )
        aws.s3.BucketLifecycleConfiguration(
            f"{name}-lifecycle",
            bucket=bucket.bucket,
            rules=[_expire_old_versions(), _abort_uploads()],
            # Rules about noncurrent versions are refused while the bucket is not versioned.
            opts=pulumi.ResourceOptions(
                parent=self, protect=args.keep, retain_on_delete=args.keep, depends_on=[versioning]
            ),
        )
        self.bucket_name = bucket.bucket
        self.arn = bucket.arn
        self.ready = (versioning, encryption, ownership, private, policy)
        self.register_outputs({"bucket_name": self.bucket_name, "arn": self.arn})


def _tls_only(bucket_arn: pulumi.Output[str]) -> pulumi.Output[str]:
    return policy_json(
        [
            {
                "Sid": "TlsOnly",
                "Effect": "Deny",
                "Principal": "*",
                "Action": "s3:*",
                "Resource": [bucket_arn, pulumi.Output.concat(bucket_arn, "/*")],
                "Condition": {"Bool": {"aws:SecureTransport": "false"}},
            }
        ]
    )


def _expire_old_versions() -> aws.s3.BucketLifecycleConfigurationRuleArgs:
    return aws.s3.BucketLifecycleConfigurationRuleArgs(
        id="expire-old-versions",
        status="Enabled",
        filter=aws.s3.BucketLifecycleConfigurationRuleFilterArgs(prefix=""),
        noncurrent_version_expiration=(
            aws.s3.BucketLifecycleConfigurationRuleNoncurrentVersionExpirationArgs(noncurrent_days=_NONCURRENT_DAYS)
        ),
    )


def _abort_uploads() -> aws.s3.BucketLifecycleConfigurationRuleArgs:
    return aws.s3.BucketLifecycleConfigurationRuleArgs(
        id="abort-uploads",
        status="Enabled",
        filter=aws.s3.BucketLifecycleConfigurationRuleFilterArgs(prefix=""),
        # Parts of an upload that was killed are billed and invisible; a resumed one is done within a week.
        abort_incomplete_multipart_upload=(
            aws.s3.BucketLifecycleConfigurationRuleAbortIncompleteMultipartUploadArgs(
                days_after_initiation=_ABORT_UPLOAD_DAYS
            )
        ),
    )
