"""The settings of all that replicates a node: archive, drills, encryption, generations, lease, replicas."""

from schemas.drill_settings import DrillSettings
from schemas.encryption_settings import EncryptionSettings
from schemas.generation_settings import GenerationSettings
from schemas.lease_settings import LeaseSettings
from schemas.replica_settings import ReplicaSettings
from schemas.s3_settings import S3Settings


class ReplicationSettings(
    DrillSettings, EncryptionSettings, GenerationSettings, LeaseSettings, ReplicaSettings, S3Settings
):
    """Everything about copies of a node elsewhere."""
