locals {
  function_name = "${var.name}-example"
}

data "aws_partition" "current" {}

# The key's value passes through Terraform, into its state and the function's environment: see "The API key" in README.md.
data "aws_secretsmanager_secret_version" "api_key" {
  secret_id = var.api_key_secret_arn
}

resource "aws_lambda_function" "example" {
  #checkov:skip=CKV_AWS_115:the broker limits each tenant; a reserved concurrency here would take it from the account's other functions
  #checkov:skip=CKV_AWS_116:called synchronously through the HTTP API, so there is no event to keep
  #checkov:skip=CKV_AWS_272:code signing belongs to the account that builds the zip
  function_name    = local.function_name
  description      = "Calls the database through Hearth"
  role             = aws_iam_role.function.arn
  runtime          = "provided.al2023"
  handler          = "bootstrap"
  architectures    = [var.function_architecture]
  filename         = var.function_zip
  source_code_hash = filebase64sha256(var.function_zip)
  memory_size      = 256
  timeout          = 15
  kms_key_arn      = var.kms_key_arn

  environment {
    variables = {
      HEARTH_URL = module.broker.url
      HEARTH_KEY = data.aws_secretsmanager_secret_version.api_key.secret_string
    }
  }

  vpc_config {
    subnet_ids         = var.private_subnet_ids
    security_group_ids = [aws_security_group.function.id]
  }

  tracing_config {
    mode = "Active"
  }

  depends_on = [
    aws_cloudwatch_log_group.function,
    aws_iam_role_policy.function_environment,
    aws_iam_role_policy.function_logs,
    aws_iam_role_policy_attachment.function,
  ]
}

# The function talks to the broker and to nobody else.

resource "aws_security_group" "function" {
  name_prefix = "${local.function_name}-"
  description = "Hearth example function"
  vpc_id      = var.vpc_id

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_egress_rule" "function_to_broker" {
  security_group_id            = aws_security_group.function.id
  description                  = "To the broker"
  referenced_security_group_id = module.broker.load_balancer_security_group_id
  ip_protocol                  = "tcp"
  from_port                    = 443
  to_port                      = 443
}

resource "aws_iam_role" "function" {
  name_prefix = "${local.function_name}-"
  description = "Hearth example function"

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "lambda.amazonaws.com" }
    }]
  })
}

resource "aws_iam_role_policy_attachment" "function" {
  for_each = toset(["service-role/AWSLambdaENIManagementAccess", "AWSXRayDaemonWriteAccess"])

  role       = aws_iam_role.function.name
  policy_arn = "arn:${data.aws_partition.current.partition}:iam::aws:policy/${each.value}"
}

resource "aws_iam_role_policy" "function_logs" {
  name = "logs"
  role = aws_iam_role.function.id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid      = "WriteLogs"
      Effect   = "Allow"
      Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
      Resource = ["${aws_cloudwatch_log_group.function.arn}:*"]
    }]
  })
}

resource "aws_iam_role_policy" "function_environment" {
  name = "environment"
  role = aws_iam_role.function.id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid      = "DecryptEnvironment"
      Effect   = "Allow"
      Action   = ["kms:Decrypt"]
      Resource = [var.kms_key_arn]
    }]
  })
}

resource "aws_cloudwatch_log_group" "function" {
  #checkov:skip=CKV_AWS_158:the service's own encryption is enough for an example that logs no data
  #checkov:skip=CKV_AWS_338:an example's logs are not kept for a year
  name              = "/aws/lambda/${local.function_name}"
  retention_in_days = 30
}
