# Lists of things that the same plan may create (security groups, backends) are maps: the keys are known before the
# apply even where the ids are not, and they name the rules.

variable "name" {
  description = "Name of the service, and the start of every name made here."
  type        = string
  default     = "hearth"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,22}[a-z0-9]$", var.name)) && !startswith(var.name, "internal-")
    error_message = "Use 2 to 24 lower-case letters, digits and hyphens, starting with a letter and not with `internal-`: load balancers and roles take no other."
  }
}

variable "tags" {
  description = "Tags for every resource made here."
  type        = map(string)
  default     = {}
}

# --- Where it runs ---

variable "vpc_id" {
  description = "The VPC of the load balancer and the tasks."
  type        = string
}

variable "task_subnet_ids" {
  description = "Private subnets for the tasks, in at least two zones. They need a way to the image registry, Secrets Manager and CloudWatch Logs (NAT or VPC endpoints)."
  type        = list(string)

  validation {
    condition     = length(var.task_subnet_ids) >= 2
    error_message = "Give at least two subnets, in different zones."
  }
}

variable "load_balancer_subnet_ids" {
  description = "Subnets for the load balancer, in at least two zones: private ones unless `internal` is false."
  type        = list(string)

  validation {
    condition     = length(var.load_balancer_subnet_ids) >= 2
    error_message = "A load balancer needs at least two subnets, in different zones."
  }
}

variable "cluster_name" {
  description = "An existing ECS cluster. Null makes one. The name and not the ARN, since it must be known before the apply."
  type        = string
  default     = null
}

# --- What runs ---

variable "image" {
  description = "The broker's image, with a fixed tag or a digest."
  type        = string

  validation {
    condition     = can(regex("(:[A-Za-z0-9._-]+|@sha256:[0-9a-f]{64})$", var.image)) && !endswith(var.image, ":latest")
    error_message = "Name a tag other than `latest`, or a digest: a task that restarts must be the one that was deployed."
  }
}

variable "ecr_repository_arns" {
  description = "ECR repositories that the tasks may pull from. Empty for an image that needs no AWS credential."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for arn in var.ecr_repository_arns : can(regex("^arn:[a-z-]+:ecr:[^*]+:repository/[^*]+$", arn))])
    error_message = "Give whole ECR repository ARNs, without wildcards."
  }
}

variable "cpu_architecture" {
  description = "The image's architecture: `X86_64` or `ARM64`."
  type        = string
  default     = "X86_64"

  validation {
    condition     = contains(["X86_64", "ARM64"], var.cpu_architecture)
    error_message = "Use X86_64 or ARM64."
  }
}

variable "cpu" {
  description = "CPU units of one task (1024 is one vCPU)."
  type        = number
  default     = 1024

  validation {
    condition     = contains([256, 512, 1024, 2048, 4096, 8192, 16384], var.cpu)
    error_message = "Fargate knows 256, 512, 1024, 2048, 4096, 8192 and 16384."
  }
}

variable "memory" {
  description = "Memory of one task, in MiB, within what Fargate allows for `cpu`."
  type        = number
  default     = 2048

  validation {
    # Source: Amazon ECS developer guide, "Task CPU and memory".
    condition = lookup({
      256   = contains([512, 1024, 2048], var.memory)
      512   = contains(range(1024, 4097, 1024), var.memory)
      1024  = contains(range(2048, 8193, 1024), var.memory)
      2048  = contains(range(4096, 16385, 1024), var.memory)
      4096  = contains(range(8192, 30721, 1024), var.memory)
      8192  = contains(range(16384, 61441, 4096), var.memory)
      16384 = contains(range(32768, 122881, 8192), var.memory)
    }, tostring(var.cpu), false)
    error_message = "Fargate does not offer this much memory with this much CPU."
  }
}

variable "user" {
  description = "User and group of the broker inside the container, as numbers. Never root."
  type        = string
  default     = "65532:65532"

  validation {
    condition     = can(regex("^[1-9][0-9]*:[1-9][0-9]*$", var.user))
    error_message = "Use numbers other than 0, as in `65532:65532`."
  }
}

variable "drain_seconds" {
  description = "How long a stopping broker may finish what is in flight: at least its own grace period (30 s). The load balancer waits as long for requests before the task is told to stop, and the task is killed 10 s after that time."
  type        = number
  default     = 30

  validation {
    condition     = var.drain_seconds >= 1 && var.drain_seconds <= 110
    error_message = "Between 1 and 110: Fargate kills a task at most 120 s after SIGTERM."
  }
}

# --- Configuration and secrets ---

variable "config_secret_arn" {
  description = "Secrets Manager secret that holds the whole `hearth.toml`. The broker gets it as HEARTH_CONFIG_TOML."
  type        = string

  validation {
    condition     = can(regex("^arn:[a-z-]+:secretsmanager:[^:*]+:[0-9]{12}:secret:[^:*]+$", var.config_secret_arn))
    error_message = "Give the ARN of one Secrets Manager secret, without wildcards."
  }
}

variable "secret_environment" {
  description = "Environment variable to the ARN of the Secrets Manager secret with its value, such as the passwords that the configuration names by `{ env = … }`. The forms `arn:json-key::` and `arn:json-key:stage:version` pick out one field."
  type        = map(string)
  default     = {}

  validation {
    condition = alltrue([
      for arn in values(var.secret_environment) :
      can(regex("^arn:[a-z-]+:secretsmanager:[^:*]+:[0-9]{12}:secret:[^:*]+(:[^:*]*:[^:*]*:[^:*]*)?$", arn))
    ])
    error_message = "Every value is the ARN of one Secrets Manager secret, without wildcards."
  }

  validation {
    condition     = alltrue([for name in keys(var.secret_environment) : can(regex("^[A-Z][A-Z0-9_]*$", name)) && !contains(local.fixed_environment_names, name)])
    error_message = "Names are upper case, and not one that the module sets itself (HEARTH_CONFIG_TOML, the two listen addresses)."
  }
}

variable "secret_kms_key_arns" {
  description = "Customer-managed keys that encrypt the secrets above. Empty where they use the account's default key."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for arn in var.secret_kms_key_arns : can(regex("^arn:[a-z-]+:kms:[^*]+:key/[^*]+$", arn))])
    error_message = "Give whole KMS key ARNs, without wildcards."
  }
}

variable "environment" {
  description = "Plain environment: overrides such as HEARTH__SECTION__FIELD. Nothing secret: it can be read in the task definition."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for name in keys(var.environment) : can(regex("^[A-Z][A-Z0-9_]*$", name)) && !contains(local.fixed_environment_names, name)])
    error_message = "Names are upper case, and not one that the module sets itself (HEARTH_CONFIG_TOML, the two listen addresses)."
  }

  validation {
    condition     = !anytrue([for name in keys(var.environment) : can(regex("(PASSWORD|SECRET|TOKEN)", name))])
    error_message = "A password, secret or token belongs in secret_environment."
  }
}

# --- Who reaches it, whom it reaches ---

variable "client_security_groups" {
  description = "Who may call the broker: a name of your choice to the id of a security group."
  type        = map(string)
  default     = {}
}

variable "client_cidr_blocks" {
  description = "IPv4 ranges that may call the broker. Prefer `client_security_groups`."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for block in var.client_cidr_blocks : can(cidrnetmask(block))])
    error_message = "Give IPv4 ranges such as 10.0.0.0/16."
  }

  validation {
    condition     = !var.internal || !contains(var.client_cidr_blocks, "0.0.0.0/0")
    error_message = "An internal broker does not admit the whole internet; set internal to false if that is meant."
  }
}

variable "backends" {
  description = "The databases and caches that the tasks may reach: a name of your choice to a port and either a security group or an IPv4 range. Their own security groups must admit the output `security_group_id`."
  type = map(object({
    port              = number
    security_group_id = optional(string)
    cidr_block        = optional(string)
  }))

  validation {
    condition     = alltrue([for backend in values(var.backends) : (backend.security_group_id == null) != (backend.cidr_block == null)])
    error_message = "Each backend has either a security_group_id or a cidr_block."
  }

  validation {
    condition     = alltrue([for backend in values(var.backends) : backend.port >= 1 && backend.port <= 65535])
    error_message = "A port is between 1 and 65535."
  }
}

variable "https_egress_cidr_blocks" {
  description = "Where the tasks may go on port 443: the image registry, Secrets Manager, CloudWatch Logs. Narrow it to the VPC's range where VPC endpoints serve all three."
  type        = set(string)
  default     = ["0.0.0.0/0"]
}

variable "peer_forwarding" {
  description = "Whether brokers may call each other on the API port. Needed for transactions over several requests as soon as there is more than one task."
  type        = bool
  default     = true
}

# --- Load balancer ---

variable "hostname" {
  description = "The name clients call, without scheme. The certificate must cover it."
  type        = string

  validation {
    condition     = can(regex("^([a-z0-9]([a-z0-9-]*[a-z0-9])?\\.)+[a-z]{2,}$", var.hostname))
    error_message = "Give a full DNS name such as hearth.internal.example.com."
  }
}

variable "dns_zone" {
  description = "The Route 53 zone in which `hostname` becomes an alias of the load balancer. Null leaves the record to you."
  type        = object({ id = string })
  default     = null
}

variable "certificate_arn" {
  description = "ACM certificate for `hostname`."
  type        = string

  validation {
    condition     = can(regex("^arn:[a-z-]+:acm:[^:]+:[0-9]{12}:certificate/.+$", var.certificate_arn))
    error_message = "Give the ARN of an ACM certificate."
  }
}

variable "internal" {
  description = "Whether the load balancer is reachable from inside the VPC only."
  type        = bool
  default     = true
}

variable "ssl_policy" {
  description = "TLS policy of the listener. The default speaks TLS 1.3 only; `ELBSecurityPolicy-TLS13-1-2-2021-06` also admits TLS 1.2."
  type        = string
  default     = "ELBSecurityPolicy-TLS13-1-3-2021-06"

  validation {
    condition     = startswith(var.ssl_policy, "ELBSecurityPolicy-TLS13-") && !can(regex("TLS13-1-[01]-", var.ssl_policy))
    error_message = "Use one of the policies with TLS 1.3, and none that admits TLS 1.0 or 1.1."
  }
}

variable "http_redirect" {
  description = "Whether port 80 answers with a redirect to HTTPS. Off by default: a client that calls in the clear has already sent its key."
  type        = bool
  default     = false
}

variable "health_check_path" {
  description = "What the load balancer asks a task. `/readyz` takes a task out that reaches no backend, and ECS then replaces it; `/healthz` leaves tasks alone while a database is away."
  type        = string
  default     = "/readyz"

  validation {
    condition     = contains(["/readyz", "/healthz"], var.health_check_path)
    error_message = "The broker answers /readyz and /healthz."
  }
}

variable "idle_timeout_seconds" {
  description = "How long the load balancer lets a connection be silent. It should outlast the longest statement; the default outlasts the longest transaction (120 s)."
  type        = number
  default     = 130

  validation {
    condition     = var.idle_timeout_seconds >= 1 && var.idle_timeout_seconds <= 4000
    error_message = "Between 1 and 4000."
  }
}

variable "access_logs_bucket" {
  description = "S3 bucket for the load balancer's access logs. Null writes none."
  type        = string
  default     = null
}

variable "deletion_protection" {
  description = "Whether the load balancer refuses to be deleted."
  type        = bool
  default     = true
}

# --- Scaling ---

variable "min_tasks" {
  description = "The fewest brokers that run."
  type        = number
  default     = 2

  validation {
    condition     = var.min_tasks >= 1 && floor(var.min_tasks) == var.min_tasks
    error_message = "A whole number, at least 1."
  }
}

variable "max_tasks" {
  description = "The most brokers that run. Each takes its share of the database's connections."
  type        = number
  default     = 10

  validation {
    condition     = var.max_tasks >= var.min_tasks && floor(var.max_tasks) == var.max_tasks
    error_message = "A whole number, at least min_tasks."
  }
}

variable "cpu_target_percent" {
  description = "Average CPU use that scaling aims at."
  type        = number
  default     = 60

  validation {
    condition     = var.cpu_target_percent >= 10 && var.cpu_target_percent <= 90
    error_message = "Between 10 and 90."
  }
}

variable "requests_per_minute_per_task" {
  description = "Requests per task that scaling aims at. Unit: requests a minute. Measure your own: the default is a cautious 1000 a second for one vCPU."
  type        = number
  default     = 60000

  validation {
    condition     = var.requests_per_minute_per_task >= 1
    error_message = "At least 1."
  }
}

# --- Logs ---

variable "log_retention_days" {
  description = "How long logs are kept. Unit: days."
  type        = number
  default     = 30

  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653], var.log_retention_days)
    error_message = "CloudWatch Logs knows only certain lengths, such as 7, 14, 30, 90 and 365 days."
  }
}

variable "logs_kms_key_arn" {
  description = "KMS key for the log group. Its key policy must admit CloudWatch Logs. Null uses the service's own encryption."
  type        = string
  default     = null
}
