variable "region" {
  description = "The AWS region."
  type        = string
}

variable "name" {
  description = "Name of the broker, and the start of the function's names."
  type        = string
  default     = "hearth"
}

variable "vpc_id" {
  description = "The VPC of broker, function and database."
  type        = string
}

variable "private_subnet_ids" {
  description = "Private subnets in at least two zones, for load balancer, tasks and function."
  type        = list(string)
}

variable "hostname" {
  description = "The broker's name inside the VPC. The certificate must cover it."
  type        = string
}

variable "dns_zone_id" {
  description = "Private Route 53 zone for the broker's name."
  type        = string
}

variable "certificate_arn" {
  description = "ACM certificate for `hostname`."
  type        = string
}

variable "broker_image" {
  description = "The broker's image, with a fixed tag or a digest."
  type        = string
}

variable "broker_repository_arn" {
  description = "The ECR repository of the image."
  type        = string
}

variable "config_secret_arn" {
  description = "Secret that holds `hearth.toml`."
  type        = string
}

variable "database_password_secret_arn" {
  description = "Secret that holds the database role's password; the broker reads it as APP_DB_PASSWORD."
  type        = string
}

variable "database_security_group_id" {
  description = "The database's security group."
  type        = string
}

variable "redis_security_group_id" {
  description = "The Redis server's security group."
  type        = string
}

variable "api_key_secret_arn" {
  description = "Secret that holds the function's Hearth API key, made by `hearth key create`."
  type        = string
}

variable "function_zip" {
  description = "Path of the zip with the function's `bootstrap`."
  type        = string
}

variable "function_architecture" {
  description = "What the zip was built for: `arm64` or `x86_64`."
  type        = string
  default     = "arm64"

  validation {
    condition     = contains(["arm64", "x86_64"], var.function_architecture)
    error_message = "Use arm64 or x86_64."
  }
}

variable "kms_key_arn" {
  description = "KMS key that encrypts the function's environment, the API key in it."
  type        = string
}

variable "route_authorization" {
  description = "Who may call the function's API: `AWS_IAM` for signed requests, `NONE` for anyone."
  type        = string
  default     = "AWS_IAM"

  validation {
    condition     = contains(["AWS_IAM", "NONE"], var.route_authorization)
    error_message = "Use AWS_IAM or NONE."
  }
}
