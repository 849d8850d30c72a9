# Two roles. The execution role is the ECS agent's: it pulls the image, reads the given secrets, writes the logs. The
# task role is the broker's own and may do nothing; attach to it what your setup needs.

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

locals {
  region  = data.aws_region.current.region
  account = data.aws_caller_identity.current.account_id

  # Only tasks of this account and region may take the roles, not anyone else's on whose behalf ECS acts.
  trust = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "ecs-tasks.amazonaws.com" }
      Condition = {
        StringEquals = { "aws:SourceAccount" = local.account }
        ArnLike      = { "aws:SourceArn" = "arn:${data.aws_partition.current.partition}:ecs:${local.region}:${local.account}:*" }
      }
    }]
  })

  # `arn:json-key:stage:version` names a field of a secret; permission is given on the secret, the first seven parts.
  secret_arns = sort(distinct([for arn in values(local.secrets) : join(":", slice(split(":", arn), 0, 7))]))

  read_secrets = {
    Sid      = "ReadSecrets"
    Effect   = "Allow"
    Action   = ["secretsmanager:GetSecretValue"]
    Resource = local.secret_arns
  }
  decrypt_secrets = {
    Sid       = "DecryptSecrets"
    Effect    = "Allow"
    Action    = ["kms:Decrypt"]
    Resource  = var.secret_kms_key_arns
    Condition = { StringEquals = { "kms:ViaService" = "secretsmanager.${local.region}.${data.aws_partition.current.dns_suffix}" } }
  }
}

resource "aws_iam_role" "execution" {
  name_prefix        = "${var.name}-execution-"
  description        = "Hearth ${var.name}: starts the tasks"
  assume_role_policy = local.trust
  tags               = var.tags
}

resource "aws_iam_role" "task" {
  name_prefix        = "${var.name}-task-"
  description        = "Hearth ${var.name}: the broker itself"
  assume_role_policy = local.trust
  tags               = var.tags
}

resource "aws_iam_role_policy" "execution_secrets" {
  name = "secrets"
  role = aws_iam_role.execution.id

  policy = jsonencode({
    Version   = "2012-10-17"
    Statement = concat([local.read_secrets], length(var.secret_kms_key_arns) > 0 ? [local.decrypt_secrets] : [])
  })
}

resource "aws_iam_role_policy" "execution_logs" {
  name = "logs"
  role = aws_iam_role.execution.id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid      = "WriteLogs"
      Effect   = "Allow"
      Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
      Resource = ["${aws_cloudwatch_log_group.broker.arn}:*"]
    }]
  })
}

resource "aws_iam_role_policy" "execution_image" {
  count = length(var.ecr_repository_arns) > 0 ? 1 : 0

  name = "image"
  role = aws_iam_role.execution.id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid      = "LogIn"
        Effect   = "Allow"
        Action   = ["ecr:GetAuthorizationToken"]
        Resource = ["*"] # The action knows no narrower resource.
      },
      {
        Sid      = "Pull"
        Effect   = "Allow"
        Action   = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
        Resource = var.ecr_repository_arns
      },
    ]
  })
}
