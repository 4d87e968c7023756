"""Secrets that can be recognized by their form alone: keys and tokens of services, private keys, password files."""

from __future__ import annotations

import re

# A match is a secret wherever it stands. The lengths keep ordinary identifiers out.
_FORMATS = (
    # private key
    r"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----.*?(?:-----END [A-Z0-9 ]+-----|\Z)",
    # private key in base64
    r"LS0tLS1CRUdJTi[A-Za-z0-9+/\s]{20,}={0,2}",
    # PuTTY key
    r"PuTTY-User-Key-File-\d.*?(?:Private-MAC: \S+|\Z)",
    # age key
    r"AGE-SECRET-KEY-1[0-9A-Z]{20,}",
    # key of AWS or lakeFS
    r"\b(?:A3T[A-Z0-9]|AKIA|ASIA|AGPA|AIDA|AROA|AIPA|ANPA|ANVA|ABIA|ACCA)[A-Z0-9]{12,}\b",
    # GitHub token
    r"\b(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,})",
    # GitLab token
    r"\bgl(?:pat|dt|rt|ft|soat|cbt|ptt|imt|agent|oas)-[\w-]{16,}",
    # Slack token
    r"\b(?:xox[a-z]-[\w-]{10,}|xapp-\d-[\w-]{10,})|hooks\.slack\.com/(?:services|workflows)/[\w/]+",
    # Hugging Face token
    r"\b(?:hf|api_org)_[A-Za-z0-9]{20,}",
    # OpenAI or similar key
    r"\b(?:sk|pk|rk)-(?:ant-|proj-|svcacct-|or-v1-|lf-)?[A-Za-z0-9_-]{20,}",
    # Stripe or similar key
    r"\b(?:sk|pk|rk|whsec|shp(?:at|ca|pa|ss))_(?:live_|test_)?[A-Za-z0-9]{16,}",
    # Google key
    r"\bAIza[\w-]{30,}|\bya29\.[\w-]{20,}|\bGOCSPX-[\w-]{20,}|\b1//0[\w-]{30,}",
    # SendGrid key
    r"\bSG\.[\w-]{16,}\.[\w-]{16,}",
    # Twilio key
    r"\bSK[0-9a-f]{32}\b",
    # Mailgun or Mailchimp key
    r"\bkey-[0-9a-f]{32}\b|\b[0-9a-f]{32}-us\d{1,2}\b",
    # package registry token
    r"\b(?:npm_[A-Za-z0-9]{30,}|pypi-[\w-]{40,}|rubygems_[0-9a-f]{40,}"
    r"|oy2[a-z0-9]{43}|dckr_(?:pat|oat)_[\w-]{20,})",
    # cloud token
    r"\b(?:do[opr]_v1_[0-9a-f]{40,}|dapi[0-9a-f]{32}|hv[sbr]\.[\w-]{20,}|tskey-[\w-]{16,}|sbp_[0-9a-f]{40}"
    r"|sntr[yu]s_[\w=+/-]{20,}|gls[ac]_[\w]{20,}|lin_api_\w{20,}|ntn_\w{20,}|r8_\w{20,}|gsk_\w{20,}|xai-\w{20,}|pplx-\w{20,}"
    r"|pcsk_\w{20,}|NRAK-[A-Z0-9]{20,}|PMAK-[0-9a-f-]{40,}|dp\.(?:pt|st|sa)\.\w{20,}|ops_eyJ\w{20,}|EAA[A-Za-z0-9]{60,}"
    r"|[A-Za-z0-9]{14}\.atlasv1\.[\w-]{40,}|CFPAT-[\w-]{40,}|sq0[a-z]{3}-[\w-]{20,}|vercel_\w{20,}|nvapi-[\w-]{40,})",
    # Azure key
    r"(?i:AccountKey|SharedAccessKey|SharedAccessSignature)\s*=\s*[\w+/=%-]{16,}",
    # JSON web token
    r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*",
    # Telegram or Discord token
    r"\b\d{8,10}:AA[\w-]{32,}|\b[MNO][A-Za-z\d_-]{23,}\.[\w-]{6}\.[\w-]{27,}"
    r"|discord(?:app)?\.com/api/webhooks/\d+/[\w-]+",
    # HTTP credentials
    r"(?i:\b(?:bearer|basic|token)\s+)(?=[\w+/=.~-]*\d)[\w+/.~-]{16,}=*",
    # password hash
    r"\$(?:2[abxy]?|apr1|argon2\w*|scrypt|[156y])\$[\w./$=,+]{12,}",
    # .netrc
    r"\bmachine\s+\S+\s+login\s+\S+\s+(?:account\s+\S+\s+)?password\s+\S+",
    # .pgpass
    r"(?m:^[+ -]?[\w.*-]+:(?:\d{2,5}|\*):[\w*-]+:[\w*-]+:\S{4,}$)",
    # registry login
    r"(?:^|[:\"'\s])_(?:authToken|auth|password)\s*=\s*[\w+/=-]{6,}|\"auth\"\s*:\s*\"[A-Za-z0-9+/]{8,}={0,2}\"",
    # kubeconfig
    r"\bclient-(?:key|certificate)-data\s*:\s*[A-Za-z0-9+/=]{16,}",
    # login on a command line
    r"(?:\bcurl\b[^\n]*?\s(?:-u|--user)\s*['\"]?[^\s'\":$]+:[^\s'\"$]+)|\bsshpass\s+-p\s*['\"]?[^\s'\"$]+"
    r"|\b(?:mysql|mysqldump|mariadb)\b[^\n]*?\s-p['\"]?[^\s'\"$-][^\s'\"]*",
)
TOKEN = re.compile("|".join(f"(?P<t{number}>{form})" for number, form in enumerate(_FORMATS)), re.DOTALL)
