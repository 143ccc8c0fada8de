// Package provider describes kreuzwerker's Docker provider to Pulumi's bridge, with the names and defaults of Pulumi's
// own Docker plugin, so that one program runs on either.
package provider

import (
	"strings"
	"unicode"

	"github.com/pulumi/pulumi-terraform-bridge/v3/pkg/tfbridge"
	shimv2 "github.com/pulumi/pulumi-terraform-bridge/v3/pkg/tfshim/sdk-v2"
	"github.com/pulumi/pulumi/sdk/v3/go/common/tokens"
	"github.com/terraform-providers/terraform-provider-docker/internal/provider"
)

// Version is that of the SDK which asks for this plugin; the suffix tells it from Pulumi's own.
const Version = "5.1.0+inference-stack"

// Info is the whole of what the bridge needs to know.
func Info() tfbridge.ProviderInfo {
	upstream := provider.New(Version)()
	info := tfbridge.ProviderInfo{
		P:           shimv2.NewProvider(upstream),
		Name:        "docker",
		Version:     Version,
		Description: "kreuzwerker/terraform-provider-docker, bridged",
		License:     "MPL-2.0",
		Config: map[string]*tfbridge.SchemaInfo{
			"host": {Default: &tfbridge.DefaultInfo{
				Value:   "unix:///var/run/docker.sock",
				EnvVars: []string{"DOCKER_HOST"},
			}},
			"registry_auth": {Name: "registryAuth", MaxItemsOne: tfbridge.False()},
		},
		Resources:   map[string]*tfbridge.ResourceInfo{},
		DataSources: map[string]*tfbridge.DataSourceInfo{},
	}
	// Where the usual name (docker_buildx_builder -> BuildxBuilder) isn't the one that the SDK has.
	renamed := map[string]string{"docker_config": "ServiceConfig", "docker_image": "RemoteImage"}
	for name := range upstream.ResourcesMap {
		info.Resources[name] = &tfbridge.ResourceInfo{Tok: tokens.Type(token(name, "", renamed))}
	}
	for name := range upstream.DataSourcesMap {
		info.DataSources[name] = &tfbridge.DataSourceInfo{Tok: tokens.ModuleMember(token(name, "get", renamed))}
	}
	// A container's name is fixed: a new one beside the old would fail on the name conflict.
	container := info.Resources["docker_container"]
	container.DeleteBeforeReplace = true
	container.Fields = map[string]*tfbridge.SchemaInfo{
		"command":           {Name: "command"},
		"networks_advanced": {Name: "networksAdvanced"},
	}
	info.SetAutonaming(255, "-")
	return info
}

// token makes docker:index/container:Container of docker_container.
func token(name, prefix string, renamed map[string]string) string {
	camel, ok := renamed[name]
	if !ok {
		for _, word := range strings.Split(strings.TrimPrefix(name, "docker_"), "_") {
			camel += strings.ToUpper(word[:1]) + word[1:]
		}
	}
	camel = prefix + camel
	first := []rune(camel)
	first[0] = unicode.ToLower(first[0])
	return "docker:index/" + string(first) + ":" + camel
}
