output "url" {
  description = "Base URL for clients (HEARTH_URL)."
  value       = "https://${var.hostname}"
}

output "load_balancer_dns_name" {
  description = "What `hostname` must point at where `dns_zone` is null."
  value       = aws_lb.broker.dns_name
}

output "load_balancer_security_group_id" {
  description = "The load balancer's security group: clients whose own rules are narrow allow port 443 to it."
  value       = aws_security_group.load_balancer.id
}

output "security_group_id" {
  description = "The tasks' security group: databases and caches must admit it."
  value       = aws_security_group.tasks.id
}

output "cluster_name" {
  description = "The ECS cluster that the service runs in."
  value       = local.cluster_name
}

output "service_name" {
  description = "The ECS service."
  value       = aws_ecs_service.broker.name
}

output "log_group_name" {
  description = "The CloudWatch log group."
  value       = aws_cloudwatch_log_group.broker.name
}

output "task_role_arn" {
  description = "The broker's own role. It has no permissions; attach what your setup needs."
  value       = aws_iam_role.task.arn
}

output "task_role_name" {
  description = "Name of the broker's own role, for attaching policies."
  value       = aws_iam_role.task.name
}
