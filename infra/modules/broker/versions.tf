terraform {
  # 1.9: a validation may look at another variable (memory is checked against cpu).
  required_version = ">= 1.9.0"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 6.0, < 7.0"
    }
  }
}
