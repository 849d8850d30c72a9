# One HTTP API whose every path is the function's.

resource "aws_apigatewayv2_api" "example" {
  name          = local.function_name
  description   = "Hearth example function"
  protocol_type = "HTTP"
}

resource "aws_apigatewayv2_integration" "function" {
  api_id                 = aws_apigatewayv2_api.example.id
  integration_type       = "AWS_PROXY"
  integration_uri        = aws_lambda_function.example.invoke_arn
  payload_format_version = "2.0"
}

resource "aws_apigatewayv2_route" "every_path" {
  api_id             = aws_apigatewayv2_api.example.id
  route_key          = "$default"
  target             = "integrations/${aws_apigatewayv2_integration.function.id}"
  authorization_type = var.route_authorization
}

resource "aws_apigatewayv2_stage" "example" {
  api_id      = aws_apigatewayv2_api.example.id
  name        = "$default"
  auto_deploy = true

  default_route_settings {
    throttling_rate_limit  = 200
    throttling_burst_limit = 400
  }

  access_log_settings {
    destination_arn = aws_cloudwatch_log_group.api.arn
    format = jsonencode({
      request_id  = "$context.requestId"
      method      = "$context.httpMethod"
      path        = "$context.path"
      status      = "$context.status"
      duration_ms = "$context.responseLatency"
      error       = "$context.integrationErrorMessage"
    })
  }
}

resource "aws_lambda_permission" "api" {
  statement_id  = "AllowHttpApi"
  action        = "lambda:InvokeFunction"
  function_name = aws_lambda_function.example.function_name
  principal     = "apigateway.amazonaws.com"
  source_arn    = "${aws_apigatewayv2_api.example.execution_arn}/*"
}

resource "aws_cloudwatch_log_group" "api" {
  #checkov:skip=CKV_AWS_158:the service's own encryption is enough for an example that logs no data
  #checkov:skip=CKV_AWS_338:an example's logs are not kept for a year
  name              = "/aws/apigateway/${local.function_name}"
  retention_in_days = 30
}
