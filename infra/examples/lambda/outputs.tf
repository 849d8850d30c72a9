output "api_url" {
  description = "Where the function answers."
  value       = aws_apigatewayv2_stage.example.invoke_url
}

output "broker_url" {
  description = "The broker's base URL, inside the VPC."
  value       = module.broker.url
}

output "broker_log_group_name" {
  description = "The broker's log group."
  value       = module.broker.log_group_name
}
