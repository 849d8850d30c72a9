resource "aws_cloudwatch_log_group" "broker" {
  #checkov:skip=CKV_AWS_158:a key of one's own is the operator's choice (logs_kms_key_arn); without one the service encrypts
  #checkov:skip=CKV_AWS_338:how long request logs may be kept is the operator's choice (log_retention_days)
  name              = "/hearth/${var.name}"
  retention_in_days = var.log_retention_days
  kms_key_id        = var.logs_kms_key_arn
  tags              = var.tags
}
